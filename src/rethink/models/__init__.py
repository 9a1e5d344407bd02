"""Language models: loading, chat templates, adapters, and the forward pass that sampler and trainer share."""
