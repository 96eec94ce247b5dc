# CPU: docker build -t harness . && docker run --rm -v "$PWD/results:/runs/results" harness reproduce tiny
# Give --build-arg PIP_EXTRA_INDEX_URL=... an index with CPU builds of torch: the default build brings several GB of CUDA libraries.
# Not built where it was written, which has no Docker.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1
COPY . /src
RUN pip install "/src[cpu,smollm2,lora,report]" && rm -r /src
WORKDIR /runs
ENTRYPOINT ["harness"]
