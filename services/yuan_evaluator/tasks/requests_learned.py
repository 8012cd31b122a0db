"""Teaching requests: the examples that were trained on, asked as `requests` asks those that were held out."""

from yuan_evaluator.tasks.requests import LEARNED as TASK

__all__ = ["TASK"]
