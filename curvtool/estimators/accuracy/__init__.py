"""The only maker of errors: how far a number may lie from the one that was asked for, and why.

Four sources are told apart. *Solver*: an iteration was stopped. *Probes*: random vectors were drawn; a standard error
with its degrees of freedom. *Data*: another sample of as many data would give another number. *Arithmetic*: the
products are rounded. Python functions, the monitor, commands, reports and comparisons take what is made here and add
nothing.
"""
