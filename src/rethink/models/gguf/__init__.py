"""Models in GGUF files, the format of llama.cpp: read, checked, dequantized and kept as ordinary model folders."""
