"""Which learning rate, weight decay and batch size are best for the base?"""

from __future__ import annotations

from convmixer.experiments.definition import Document, Search

EXPERIMENT = Search(
    name="grid_search",
    question="Which learning rate, weight decay and batch size are best for the base, chosen on held-out images?",
    document=Document(test_accuracy=0.9274, train_accuracy=0.9402, epoch_seconds=24.19),
)
