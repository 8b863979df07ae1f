"""Where a workdir stands: for the person on call."""


