//! JSON types exactly as JumpCloud serves them; unknown fields are ignored, missing ones tolerated.
