"""The OpenAI API, as far as a model of text can answer it: completions, chat, models, tokens."""
