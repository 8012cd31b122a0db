"""Stands in for the real yuan_inference where the path of tests comes first."""

from toy_work import main

from yuan_manifest.schema import Kind

main("inference", Kind.generate)
