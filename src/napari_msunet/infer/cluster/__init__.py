"""A prediction on the workers of a Dask cluster (extra `cluster`): nothing here is imported unless it is asked for."""

from napari_msunet.infer.cluster.client import predict_on
from napari_msunet.infer.cluster.workers import Workers, slurm_cluster, workers_of

__all__ = ["Workers", "predict_on", "slurm_cluster", "workers_of"]
