"""What jaxllm is compared with, each as its users run it. Not looked at by pyright."""
