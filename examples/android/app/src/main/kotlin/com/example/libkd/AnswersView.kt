package com.example.libkd

import android.content.Context
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.view.View
import com.example.libkd.core.Answer
import java.util.Locale

private const val ROWS = 5
private const val ROW_DP = 32f
private const val TEXT_DP = 16f
private const val GAP_DP = 4f

/** Labels with their probabilities, each on a bar as long as its probability. */
class AnswersView(context: Context) : View(context) {
    private val scale = resources.displayMetrics.density
    private val bar = Paint().apply { color = Color.rgb(0x2e, 0x7d, 0x32) }
    private val text = Paint(Paint.ANTI_ALIAS_FLAG).apply {
        color = Color.WHITE
        textSize = TEXT_DP * scale
    }

    var answers: List<Answer> = emptyList()
        set(value) {
            field = value
            contentDescription = value.joinToString { "${it.label} ${percent(it)}" }
            invalidate()
        }

    override fun onMeasure(widthMeasureSpec: Int, heightMeasureSpec: Int) {
        setMeasuredDimension(MeasureSpec.getSize(widthMeasureSpec), (ROWS * ROW_DP * scale).toInt())
    }

    override fun onDraw(canvas: Canvas) {
        val row = ROW_DP * scale
        val gap = GAP_DP * scale
        answers.take(ROWS).forEachIndexed { index, answer ->
            val top = index * row
            canvas.drawRect(0f, top, width * answer.score, top + row - gap, bar)
            val baseline = top + (row - gap - text.ascent() - text.descent()) / 2
            canvas.drawText("${percent(answer)}  ${answer.label}", gap, baseline, text)
        }
    }

    private fun percent(answer: Answer): String = String.format(Locale.getDefault(), "%.1f %%", answer.score * 100)
}
