"""Which URLs a submitted job may name: those that the cluster lists, its own store, and no others however written."""

from typing import Any

import pytest

from yuan_events import InputError
from yuan_jobs.planning import parts_of
from yuan_jobs.requests import JobRequest
from yuan_jobs.urls import check_urls, is_within
from yuan_manifest import Cluster, Topology, job_of_plain
from yuan_manifest.schema import SecuritySection

ALLOWED = ["s3://corpora/", "https://data.example.org/sets"]


def check(*texts: str, urls: list[str] | None = None, store: str = "/store", **more: Any) -> None:
    manifest = {
        "version": 1,
        "kind": "tokenizer",
        "name": "demo",
        "inputs": {"text": list(texts)},
        "outputs": {"tokenizer": "demo"},
        **more,
    }
    cluster = Cluster(store=store, security=SecuritySection(urls=ALLOWED if urls is None else urls))
    check_urls(parts_of(JobRequest(job_of_plain(manifest), Topology())), cluster)


@pytest.mark.parametrize(
    "text",
    [
        "a/*.txt",
        "~/texts",
        "python-stdlib:email",
        "file:///texts/a.txt",
        "s3://corpora/a/*.jsonl.zst",
        "https://data.example.org/sets/a.txt?version=2",
        "https://DATA.example.org/sets",
        "s3://kept/store/dataset",
    ],
)
def test_files_what_is_listed_and_the_store_may_be_read(text: str) -> None:
    check(text, store="s3://kept/store")


@pytest.mark.parametrize(
    "text",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://data.example.org/sets/a.txt",
        "https://data.example.org/settings",
        "https://data.example.org/sets/../private",
        "https://data.example.org/sets/%2e%2e/private",
        "https://data.example.org/sets\\@10.0.0.1/",
        "https://data.example.org@10.0.0.1/sets/a",
        "https://data.example.org:8443/sets/a",
        "https://user:hunter2@data.example.org/sets/a",
        "HTTPS://10.0.0.1/sets/a",
        "s3://corpora-of-others/a",
        "s3://other/corpora/a",
        "memory://x",
        "simplecache::https://10.0.0.1/a",
        "zip://a.txt::https://10.0.0.1/a.zip",
        "ftp://corpora/a",
        "s3://kept/other",
    ],
)
def test_everything_else_is_refused_with_its_place_and_without_its_password(text: str) -> None:
    with pytest.raises(InputError, match=r"demo: inputs.text\[1\]: .* is not among cluster.security.urls") as caught:
        check("a.txt", text, store="s3://kept/store")
    assert "hunter2" not in str(caught.value)


def test_where_nothing_is_listed_nothing_is_fetched_and_webhooks_have_a_list_of_their_own() -> None:
    check("a.txt", urls=[], scheduling={"notify": ["https://hooks.example.org/x"]})
    with pytest.raises(InputError, match=r"cluster.security.urls \(none\)"):
        check("s3://corpora/a", urls=[])


def test_a_url_in_a_list_of_files_for_cleaning_is_found_too() -> None:
    with pytest.raises(InputError, match=r"tokenizer.added_words\[0\]: http://10.0.0.1 is not among"):
        check("a.txt", tokenizer={"vocab_size": 512, "added_words": ["http://10.0.0.1/words.txt"]})


def test_what_no_one_can_take_apart_is_within_nothing() -> None:
    assert not is_within("https://[::1/sets", "https://data.example.org/sets")
