"""Speed and memory of the engines beside what PyTorch offers without them, measured side by side."""
