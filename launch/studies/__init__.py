"""Studies of the effect of distillation: their arms, the comparison with baselines, and the pages."""
