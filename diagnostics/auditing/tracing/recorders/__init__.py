"""What a traced step keeps of its calls of torch functions, a file for each subject."""
