"""Fixtures of docker.py for all modules here: one engine and one build of the images for a session."""

from tests.deploy.docker import base_image, docker, images, other_images

__all__ = ["base_image", "docker", "images", "other_images"]
