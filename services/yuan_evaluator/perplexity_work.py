"""The perplexity of an evaluate job: on the validation part of its dataset, with the model loaded here."""

from typing import Any

from yuan_checkpoint import load_for_inference
from yuan_corpus import Tokenizer, open_dataset
from yuan_corpus.statistics import DatasetStatistics
from yuan_evaluator.perplexity import Perplexity, measure_perplexity
from yuan_events import InputError
from yuan_jobs import WorkContext
from yuan_manifest.schema import EvaluateJob
from yuan_model import Yuan


def measured_perplexity(context: WorkContext[EvaluateJob]) -> dict[str, Any]:
    """Returns the figures.

    Raises:
        InputError: if model and dataset cannot be read or do not belong together.
        Interrupted: if it was asked to stop.
    """
    job = context.job
    model = load_for_inference(context.inputs["model"].path, str(context.topology.nodes.device))
    _check_tokenizers(context, model)
    result = measure_perplexity(
        model,
        open_dataset(context.inputs["dataset"].path),
        split=job.data.split,
        sequence_length=job.data.sequence_length,
        samples=job.samples,
        sink=context.sink,
        stop_if_asked=context.stop_if_asked,
    )
    return _figures(result)


def _figures(result: Perplexity) -> dict[str, Any]:
    return {
        "loss": result.loss,
        "perplexity": result.perplexity,
        "unigram_loss": result.unigram_loss,
        "tokens": result.tokens,
        "samples": result.samples,
    }


def _check_tokenizers(context: WorkContext[EvaluateJob], model: Yuan) -> None:
    """Refuses a dataset whose ids mean something else to the model."""
    names = f"{context.inputs['dataset'].reference} and {context.inputs['model'].reference}"
    statistics = DatasetStatistics.read(context.inputs["dataset"].path)
    if statistics.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{names}: the dataset has {statistics.vocab_size} ids, the model {model.config.vocab_size} (vocab_size); "
            "tokenize the text with the model's tokenizer"
        )
    folder = context.inputs["model"].path
    own = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder  # exports have it beside the weights
    if (own / "tokenizer.model").is_file() and Tokenizer.load(own).digest != statistics.tokenizer_digest:
        raise InputError(f"{names}: cut by different tokenizers; tokenize the text with the model's tokenizer")
