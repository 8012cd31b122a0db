"""The training service: pretraining through DeepSpeed's pipeline engine, one process a rank."""
