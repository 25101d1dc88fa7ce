"""Training on AWS: data to S3, jobs on SageMaker, results back. boto3 lives here only, and is imported when it is needed."""
