"""One batch of edits, start to end: begin reading in `engine`."""
