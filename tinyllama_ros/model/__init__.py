"""The workbench: from a checkpoint to an artifact."""
