"""What may look on while a run goes by: TensorBoard, MLflow, W&B, and a user's own."""
