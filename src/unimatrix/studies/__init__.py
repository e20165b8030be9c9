"""What is studied: the paper, and what lies beyond it; a study is one value in one file."""
