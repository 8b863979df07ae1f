"""What distillation gives: the arms, their comparison, the pages."""
