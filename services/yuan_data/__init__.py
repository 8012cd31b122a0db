"""The data service: tokenizers trained on text, and text cut into datasets. How is in `yuan_corpus`."""
