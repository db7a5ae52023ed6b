"""What several tests share: models, fakes, oracles, processes. No test imports another test."""
