package com.example.libkd

import android.Manifest
import android.content.pm.PackageManager
import android.os.Bundle
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import com.example.libkd.core.ImageError
import com.example.libkd.core.LibkdError
import java.util.concurrent.ExecutionException
import java.util.concurrent.Executors

/** Which of the camera's frames are classified. */
private enum class Frames { ALL, NEXT, NONE }

/** Shows what the camera sees, and what the model takes it for. */
class MainActivity : ComponentActivity() {
    /** The only thread that uses the model. */
    private val worker = Executors.newSingleThreadExecutor()
    private var checked: Checked? = null // belongs to the worker

    @Volatile
    private var frames = Frames.ALL

    private lateinit var screen: CameraScreen
    private var waitsForPermission = false

    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { allowed ->
        if (!allowed) screen.say(getString(R.string.permission))
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        screen = CameraScreen(this, onFollow = ::follow, onOne = { choose(Frames.NEXT) })
        setContentView(screen)
        screen.say(getString(R.string.loading))
        worker.execute { load() }
    }

    /** Opens the camera if the user has just allowed it, here or in the settings. */
    override fun onResume() {
        super.onResume()
        if (waitsForPermission && mayUseCamera()) openCamera()
    }

    override fun onDestroy() {
        super.onDestroy() // which closes the camera
        worker.execute { checked?.close() }
        worker.shutdown()
    }

    private fun load() {
        try {
            val loaded = loadChecked(this)
            checked = loaded
            runOnUiThread { if (!isDestroyed) begin(loaded.difference) }
        } catch (fault: LibkdError) {
            show(fault)
        }
    }

    private fun begin(difference: Double?) {
        screen.say(goldenLine(difference))
        waitsForPermission = !mayUseCamera()
        if (waitsForPermission) permission.launch(Manifest.permission.CAMERA) else openCamera()
    }

    private fun goldenLine(difference: Double?): String =
        if (difference == null) getString(R.string.golden_none) else getString(R.string.golden_passed, difference)

    private fun mayUseCamera(): Boolean =
        checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED

    private fun openCamera() {
        waitsForPermission = false
        val camera = LifecycleCameraController(this) // it follows the rotation of the device
        camera.setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
        camera.cameraSelector = CameraSelector.DEFAULT_BACK_CAMERA
        camera.imageAnalysisOutputImageFormat = ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888
        camera.setImageAnalysisAnalyzer(worker, ::analyse)
        screen.preview.controller = camera
        camera.initializationFuture.addListener({ report { camera.initializationFuture.get() } }, worker)
        report { camera.bindToLifecycle(this) }
        choose(frames)
    }

    /** Does something with the camera, and shows the error if it can't be used. */
    private fun report(work: () -> Unit) {
        try {
            work()
        } catch (fault: ExecutionException) {
            show(unusable(fault))
        } catch (fault: IllegalStateException) {
            show(unusable(fault))
        }
    }

    private fun unusable(fault: Exception) =
        ImageError("the camera can't be used (${fault.message}); close other apps that use it")

    private fun follow() = choose(if (frames == Frames.ALL) Frames.NONE else Frames.ALL)

    private fun choose(chosen: Frames) {
        frames = chosen
        screen.showButtons(following = chosen == Frames.ALL)
    }

    /** Classifies a frame. The camera drops those that arrive meanwhile. */
    private fun analyse(frame: ImageProxy) {
        frame.use {
            val classifier = checked?.classifier
            if (classifier == null || frames == Frames.NONE) return
            if (frames == Frames.NEXT) frames = Frames.NONE
            try {
                val answers = classifier.classify(frame.toRgbImage(), orientationOf(frame.imageInfo.rotationDegrees))
                runOnUiThread { screen.answers.answers = answers }
            } catch (fault: LibkdError) {
                show(fault)
            }
        }
    }

    private fun show(fault: LibkdError) = runOnUiThread { screen.say("${fault.message} [${fault.code}]") }
}
