"""Worker processes that prepare batches: Python's own (`processes.py`) or those of PyTorch's DataLoader (`torch.py`).

`protocol.py` says what passes between a run and its workers, `tasks.py` what a worker does for each batch.
"""
