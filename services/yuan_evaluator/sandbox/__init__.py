"""Runs programs that nobody has read: a model's answers. What is here is stdlib alone, and read by the jailer itself.

`pool.py` is what the evaluator uses; the rest runs in processes that know nothing of it.
"""
