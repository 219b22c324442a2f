"""Training: SFT, reward models, DPO and policy gradient on one loop. Needs torch."""
