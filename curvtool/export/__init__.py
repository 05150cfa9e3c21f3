"""Reports for experiment trackers: TensorBoard, MLflow, Weights & Biases."""
