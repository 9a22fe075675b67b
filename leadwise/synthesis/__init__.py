"""ECGs that a model makes: missing leads that are filled in, and whole ECGs. Every file states what is synthetic."""
