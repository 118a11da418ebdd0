package com.example.libkd.core

/**
 * An error that this code raises on purpose. Its message is one line: what is wrong, where, and how to fix it.
 *
 * The codes are those of the Python package; docs/errors.md explains each.
 */
open class LibkdError(val code: String, message: String, cause: Throwable? = null) :
    Exception(message.replace(Regex("[\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]+"), " "), cause)

/** An image could not be turned into pixels. */
class ImageError(message: String) : LibkdError("image-unreadable", message)

/** A file can't be written. */
class FileError(message: String, cause: Throwable) : LibkdError("file-unwritable", message, cause)

/** A bundle is damaged, incomplete, foreign, or written by a newer version. */
class BundleError(message: String) : LibkdError("bundle-invalid", message)

/** The model does not answer on this device as it did where it was exported. */
class ProofError(message: String) : LibkdError("proof-failed", message)

/** The engine failed at something that should work. */
class EngineError(message: String, cause: Throwable? = null) : LibkdError("engine-failed", message, cause)

/** This app has not the engine that the bundle was made for. */
class EngineMissing(message: String, cause: Throwable? = null) : LibkdError("engine-missing", message, cause)
