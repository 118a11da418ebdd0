package com.example.libkd.core

const val FORMAT = "libkd-bundle/1"
private const val MAX_FILE_BYTES = 1L shl 31
private const val MAX_LENGTH = 8192L
private val LABEL = Regex("[^\\u0000-\\u001f\\u007f-\\u009f]+")
private val SHA256 = Regex("[0-9a-f]{64}")
private val BACKENDS = mapOf(
    "onnx" to setOf(), "openvino" to setOf(), "executorch" to setOf("xnnpack", "vulkan", "coreml"), "coreml" to setOf()
)

enum class Precision(val key: String, val tolerance: Double) {
    FP32("fp32", 1e-4),
    FP16("fp16", 0.05),
    INT8("int8", 0.1)
}

enum class Mode(val key: String) { SQUASH("squash"), COVER("cover") }

/** The scaling of an image before the crop, to [height] and [width] by [mode]. */
data class Resize(val mode: Mode, val height: Int, val width: Int, val filter: Filter)

/** The pixels that a model takes, uint8 RGB [1, height, width, 3], and how an image becomes these. */
data class Input(val height: Int, val width: Int, val resize: Resize, val crops: Boolean) {
    companion object {
        /** Reads the JSON of `input` in a manifest. */
        fun parse(json: ByteArray): Input = understood("input") { readInput(Fields("$", parseJson(json))) }
    }
}

data class FileEntry(val sha256: String, val bytes: Long)

data class Model(
    val arch: String,
    val parameters: Long,
    val teachers: List<String>,
    val trainedOn: String?,
    val calibratedOn: String?
)

data class Quantized(val calibrationImages: Long, val floatLayers: List<String>)

/** The part of a manifest that the model file carries as well. */
data class Description(
    val name: String,
    val created: String,
    val target: String,
    val backend: String?,
    val precision: Precision,
    val labels: List<String>,
    val input: Input,
    val temperature: Double,
    val model: Model,
    val quantized: Quantized?,
    val versions: Map<String, String>
) {
    companion object {
        /** Reads the JSON that a model file carries. */
        fun parse(json: String): Description = understood("the manifest in the model file") {
            val fields = Fields("$", parseJson(json.toByteArray()))
            readDescription(fields).also { fields.finish() }
        }
    }
}

/** The content of `bundle.json`. What only people read, `lowered` and `proof`, is checked and not kept. */
data class Manifest(val description: Description, val files: Map<String, FileEntry>) {
    companion object {
        fun parse(json: ByteArray): Manifest = understood(MANIFEST) {
            val fields = Fields("$", parseJson(json))
            val format = fields.text("format")
            if (format != FORMAT && format.startsWith("libkd-bundle/")) {
                throw BundleError("$MANIFEST is written in format $format, this app reads $FORMAT; update the app")
            }
            val files = fields.each("files") { members, name ->
                val entry = members.inner(name)
                FileEntry(matching(entry, "sha256", SHA256), entry.integer("bytes", 1..MAX_FILE_BYTES))
                    .also { entry.finish() }
            }
            val manifest = Manifest(readDescription(fields), files)
            fields.optional("lowered") { checkLowered(fields.inner(it)) }
            if (!fields.isNull("proof")) checkProof(fields.inner("proof"))
            fields.finish()
            manifest
        }
    }
}

private fun <T> understood(what: String, read: () -> T): T {
    try {
        return read()
    } catch (fault: JsonError) {
        throw BundleError("$what is not understood (${fault.message}); copy or export the bundle again")
    }
}

private fun readDescription(fields: Fields): Description {
    fields.oneOf("format", FORMAT)
    val target = fields.oneOf("target", *BACKENDS.keys.toTypedArray())
    val backends = BACKENDS.getValue(target).toTypedArray()
    val labels = fields.texts("labels")
    if (labels.size < 2 || !labels.all(::isLabel)) throw misfit("$.labels", "two or more names of classes")
    val output = fields.inner("output")
    output.withDefault("kind", "probabilities") { output.oneOf(it, "probabilities") }
    val temperature = output.withDefault("temperature", 1.0) { key -> output.number(key) { it > 0 } }
    output.finish()
    return Description(
        name = fields.text("name").also { if (!isLabel(it)) throw misfit("$.name", "a name") },
        created = fields.text("created"),
        target = target,
        backend = fields.optional("backend") { fields.oneOf(it, *backends) },
        precision = fields.text("precision").let { key ->
            Precision.values().find { it.key == key } ?: throw misfit("$.precision", "fp32, fp16 or int8")
        },
        labels = labels,
        input = readInput(fields.inner("input")),
        temperature = temperature,
        model = readModel(fields.inner("model")),
        quantized = fields.optional("quantized") { readQuantized(fields.inner(it)) },
        versions = fields.each("versions") { members, name -> members.text(name) }
    )
}

private fun readInput(fields: Fields): Input {
    fields.withDefault("dtype", "uint8") { fields.oneOf(it, "uint8") }
    fields.withDefault("layout", "NHWC") { fields.oneOf(it, "NHWC") }
    fields.withDefault("channels", "RGB") { fields.oneOf(it, "RGB") }
    val crops = fields.withDefault("crop", "center") { fields.oneOf(it, "center", "none") } == "center"
    val input = Input(length(fields, "height"), length(fields, "width"), readResize(fields.inner("resize")), crops)
    fields.finish()
    val resize = input.resize
    if (resize.height < input.height || resize.width < input.width) {
        throw JsonError("resize.size is smaller than the crop")
    }
    val exact = resize.mode == Mode.SQUASH && resize.height == input.height && resize.width == input.width
    if (!crops && !exact) throw JsonError("without a crop, resize has to squash to exactly height x width")
    return input
}

private fun readResize(fields: Fields): Resize {
    val mode = fields.oneOf("mode", *Mode.values().map { it.key }.toTypedArray())
    val filter = fields.withDefault("filter", Filter.BICUBIC.key) { key ->
        fields.oneOf(key, *Filter.values().map { it.key }.toTypedArray())
    }
    val size = fields.integers("size", 1..MAX_LENGTH)
    if (size.size != 2) throw misfit("$.input.resize.size", "height and width")
    fields.finish()
    return Resize(
        Mode.values().first { it.key == mode },
        size[0].toInt(),
        size[1].toInt(),
        Filter.values().first { it.key == filter }
    )
}

private fun readModel(fields: Fields) = Model(
    arch = fields.text("arch"),
    parameters = fields.integer("parameters", 0..Long.MAX_VALUE),
    teachers = fields.withDefault("teachers", listOf()) { fields.texts(it) },
    trainedOn = fields.optional("trained_on") { fields.text(it) },
    calibratedOn = fields.optional("calibrated_on") { fields.text(it) }
).also { fields.finish() }

private fun readQuantized(fields: Fields) = Quantized(
    calibrationImages = fields.integer("calibration_images", 1..Long.MAX_VALUE),
    floatLayers = fields.withDefault("float_layers", listOf()) { fields.texts(it) }
).also { fields.finish() }

private fun checkLowered(fields: Fields) {
    fields.integer("delegates", 0..Long.MAX_VALUE)
    fields.each("outside") { members, name -> members.integer(name, 0..Long.MAX_VALUE) }
    fields.finish()
}

private fun checkProof(fields: Fields) {
    fields.integer("images", 1..Long.MAX_VALUE)
    for (key in listOf("max_abs_difference", "top1_agreement")) fields.number(key) { it in 0.0..1.0 }
    for (key in listOf("top1", "reference_top1")) {
        fields.optional(key) { name -> fields.number(name) { it in 0.0..1.0 } }
    }
    fields.finish()
}

private fun length(fields: Fields, key: String): Int = fields.integer(key, 1..MAX_LENGTH).toInt()

private fun isLabel(text: String): Boolean = LABEL.matches(text) && text.codePointCount(0, text.length) <= 500

private fun matching(fields: Fields, key: String, pattern: Regex): String =
    fields.text(key).also { if (!pattern.matches(it)) throw misfit(key, "the hash of a file") }
