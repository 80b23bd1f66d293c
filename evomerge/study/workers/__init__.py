"""Workers: the processes that measure candidates, and how they are started, watched and ended."""
