"""Stages as jobs of a Slurm cluster, submitted through submitit.

Slurm does the scheduling: a job waits for those that make its inputs (afterok) and for an earlier job of the same stage (singleton). One
that is preempted or reaches its time limit goes back to the queue, where its stage continues from its state. Nothing is kept but
RUN/jobs/STAGE, with submitit's files and the logs: which stages are in the queue is read from the jobs' names, so the same command finds
the jobs of one that was left or killed.
"""
