"""What a sweep writes: paths, trial records, locks, TensorBoard, provenance."""
