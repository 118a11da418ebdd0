package com.example.libkd

import com.example.libkd.core.EngineError
import com.example.libkd.core.EngineMissing
import com.example.libkd.core.Input
import com.example.libkd.core.LibkdError
import com.example.libkd.core.Session
import java.io.Closeable
import java.io.File
import org.pytorch.executorch.DType
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

private const val METADATA = "libkd_bundle"

/**
 * A model that ExecuTorch has loaded.
 *
 * @param file the checked bytes of `model.pte`, in a folder that only this app can write to.
 */
class ExecuTorchSession(file: File, input: Input) : Session, Closeable {
    private val module = engine("loading the model") { Module.load(file.path) }
    private val shape = longArrayOf(1, input.height.toLong(), input.width.toLong(), 3)

    override val manifest: String = engine("reading the model's manifest") {
        if (METADATA in module.getMethods()) module.execute(METADATA).single().toStr() else ""
    }

    override fun run(pixels: ByteArray): FloatArray = engine("the model") {
        val answer = module.forward(EValue.from(Tensor.fromBlobUnsigned(pixels, shape))).single().toTensor()
        check(answer.dtype() == DType.FLOAT) { "it answers with ${answer.dtype()}, and not with float32" }
        answer.dataAsFloatArray
    }

    override fun close() = module.destroy()
}

/** Turns what ExecuTorch throws into errors of one line. */
private fun <T> engine(task: String, work: () -> T): T =
    try {
        work()
    } catch (fault: LibkdError) {
        throw fault
    } catch (fault: LinkageError) {
        throw EngineMissing("this app has no ExecuTorch for the processor of this device; build it for its ABI", fault)
    } catch (fault: Exception) {
        val versions = "compare the versions of ExecuTorch here and at export"
        throw EngineError("$task failed: ${fault.message}; $versions", fault)
    }
