"""The page of runs that train, served: as a tab of TensorBoard, or alone."""
