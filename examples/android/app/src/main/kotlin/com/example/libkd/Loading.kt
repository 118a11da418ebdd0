package com.example.libkd

import android.content.Context
import com.example.libkd.core.Bundle
import com.example.libkd.core.Classifier
import com.example.libkd.core.FileError
import java.io.Closeable
import java.io.File
import java.io.IOException

private const val BUNDLE = "bundle" // the folder in src/main/assets

/** A classifier that has passed all checks on this device, and its largest difference from the golden answers. */
class Checked(val classifier: Classifier, val difference: Double?, private val session: ExecuTorchSession) : Closeable {
    override fun close() = session.close()
}

/** Reads the bundle, loads its model and checks both. This takes a while, so call it on a thread of its own. */
fun loadChecked(context: Context): Checked {
    val bundle = Bundle.open(AssetFolder(context.assets, BUNDLE))
    val session = ExecuTorchSession(written(bundle.model, context.noBackupFilesDir), bundle.description.input)
    try {
        val classifier = Classifier(bundle, session)
        return Checked(classifier, classifier.selfTest(), session)
    } catch (fault: Exception) {
        session.close()
        throw fault
    }
}

/** ExecuTorch reads a model only from a file, so the bytes that were checked become one that belongs to this app. */
private fun written(model: ByteArray, folder: File): File {
    val file = File(folder, "model.pte")
    try {
        file.writeBytes(model)
    } catch (fault: IOException) {
        throw FileError("$file can't be written (${fault.message}); free some storage", fault)
    }
    return file
}
