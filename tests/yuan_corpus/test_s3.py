"""Text in a real S3 server (moto's, over HTTP) is read as that of a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gzip, os, sys
from pathlib import Path

def main(tokenizer, folder):
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", FSSPEC_S3_ENDPOINT_URL=f"http://{host}:{port}")
    import fsspec
    from fsspec.config import conf, set_conf_env
    set_conf_env(conf)
    from yuan_corpus import CorpusWork, Cutting, TextError, Tokenizer, find_text_files, tokenize_corpus
    files = fsspec.filesystem("s3")
    files.mkdir("corpus")
    local = folder / "text"
    (local / "deep").mkdir(parents=True)
    (local / "a.txt").write_text("".join(f"line {n} 和中文\\n" for n in range(60_000)))
    (local / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\\n{"text": "two"}\\n'))
    (local / "c.py").write_text("print(1)\\n")
    (local / "c.log").write_text("no")
    files.put(str(local), "corpus/text", recursive=True)
    tokenizer = Tokenizer.load(tokenizer)
    made = {}
    for name, pattern in (("local", str(local)), ("s3", "s3://corpus/text")):
        output = folder / name
        output.mkdir()
        found = find_text_files([pattern], ["*.log"])
        made[name] = tokenize_corpus(found, tokenizer, output, workers=2, shard_bytes=1 << 20)
    assert made["s3"] == made["local"], made
    assert made["s3"].documents == 60_003
    for path in (folder / "local").iterdir():
        assert path.read_bytes() == (folder / "s3" / path.name).read_bytes(), path.name
    assert [str(f) for f in find_text_files(["s3://corpus/**/*.gz"])] == ["s3://corpus/text/deep/b.jsonl.gz"]
    (folder / "changed").mkdir()
    work = CorpusWork(find_text_files(["s3://corpus/text/c.py"]), Cutting(tokenizer), folder / "changed")
    work.make()
    files.pipe("corpus/text/c.py", b"print(2)\\n")
    try:
        work.assemble()
    except TextError as error:
        print(error)
    for wrong in ("s3://corpus/none/*.txt", "s3://nowhere/a.txt"):
        try:
            find_text_files([wrong])
        except TextError as error:
            print(error)
    server.stop()

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with s3fs and a server of S3, which the product itself does not need."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "s3fs", "moto[server]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot get s3fs and moto: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return folder


@pytest.mark.slow
def test_text_in_s3_is_the_same_dataset_and_what_changes_there_is_noticed(
    tmp_path: Path, tokenizer_folder: Path, packages: Path
) -> None:
    script = tmp_path / "reads_s3.py"
    script.write_text(SCRIPT)
    libs = str(Path(__file__).parents[2] / "libs")
    # Behind the installed packages stand those of the folder: only what is missing there is taken from here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([libs, *filter(None, sys.path), str(packages)])}
    done = subprocess.run(
        [sys.executable, script, tokenizer_folder, tmp_path / "work"],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    changed, no_file, no_bucket = done.stdout.splitlines()
    assert changed.startswith("s3://corpus/text/c.py: changed while it was read")
    assert no_file == "text s3://corpus/none/*.txt: no such file or folder, or no file matches"
    assert no_bucket.startswith("text s3://nowhere/a.txt: ")
