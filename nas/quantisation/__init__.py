"""Networks in fewer bits: what loses least, layer by layer. Files are written by `latency_tables.onnx_quantised`."""
