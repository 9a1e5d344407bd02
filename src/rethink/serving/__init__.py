"""An OpenAI-compatible server that thinks twice: `rethink serve`."""
