"""GSM8K in English, with the same instruction; a table by the number of steps in the published solutions."""

from yuan_evaluator.tasks.gsm8k import ENGLISH as TASK

__all__ = ["TASK"]
