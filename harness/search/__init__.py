"""Search algorithms: which configurations of a cell are tried. One file each."""
