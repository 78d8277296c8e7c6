"""Runs on the machines of a Ray cluster, one Ray task each. ``ray`` itself is imported only by functions, once they need it.

engine.py: the loop of the program that was started. cluster.py: what the cluster has, and whether it may be used. task.py: what
happens on a node, where a run is executed as execution/local.py executes it. mailbox.py: the actor between the two. place.py:
which runs go to which nodes. delivery.py: run folders that travel, where no disk is shared.
"""
