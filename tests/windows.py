"""Who asks for the password of a Windows machine."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


class Asking:
    """What `gcloud compute reset-windows-password` has: a key, the item it writes, and what it reads on the port."""

    def __init__(self, user: str = "Administrator", seconds: float = 300, size: int = 2048, **fields: Any):
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=size)
        numbers = self._key.public_key().public_numbers()
        self.modulus = base64.b64encode(numbers.n.to_bytes(size // 8, "big")).decode()
        ends = datetime.now(UTC) + timedelta(seconds=seconds)
        self.line = json.dumps(
            {
                "email": "ian@example.org",
                "exponent": base64.b64encode(numbers.e.to_bytes(3, "big")).decode(),
                "expireOn": ends.strftime("%Y-%m-%dT%H:%M:%S+0000"),
                "modulus": self.modulus,
                "userName": user,
                **fields,
            }
        )

    def answer(self, contents: str) -> dict[str, Any] | None:
        lines = [json.loads(line) for line in contents.splitlines()]
        return next((line for line in reversed(lines) if line.get("modulus") == self.modulus), None)

    def password(self, contents: str, method: type[hashes.HashAlgorithm] = hashes.SHA1) -> str:
        answer = self.answer(contents)
        assert answer is not None and answer["passwordFound"] is True, answer
        encrypted = base64.b64decode(answer["encryptedPassword"])
        return self._key.decrypt(encrypted, padding.OAEP(padding.MGF1(method()), method(), None)).decode()
