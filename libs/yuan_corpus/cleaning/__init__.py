"""Documents made better or left out, by named stages with counts of what each did.

A stage that judges a document by itself has one method, `clean`; one that must know the documents before it
(duplicates) has `sign`, done in the worker processes, and `admit` or `edit`, done in order by the collector.
`pipeline.py` runs them.
"""

from yuan_corpus.cleaning.pipeline import CleaningReport, StageSpec, build_stages, module_file
from yuan_corpus.cleaning.stage import Dropped, Stage

__all__ = ["CleaningReport", "Dropped", "Stage", "StageSpec", "build_stages", "module_file"]
