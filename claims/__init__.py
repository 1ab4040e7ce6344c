"""The claims of arXiv 2503.11514, one parametrised module per factor or mechanism."""
