"""Pre-training methods: one file per paper, the class that each implements (`contract`), and the list of them (`catalogue`)."""
