FROM python:3.12-slim

RUN useradd --create-home nas
WORKDIR /opt/nas
COPY pyproject.toml README.md LICENSE ./
COPY latency_tables latency_tables
COPY nas nas
COPY search_spaces search_spaces
COPY supernets supernets
RUN pip install --no-cache-dir .

USER nas
WORKDIR /home/nas
ENTRYPOINT ["nas"]
CMD ["--help"]
