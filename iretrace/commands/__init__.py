"""One module per verb of the command line; :mod:`iretrace.verbs` lists them."""
