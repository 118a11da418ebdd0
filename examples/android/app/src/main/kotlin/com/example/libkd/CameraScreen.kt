package com.example.libkd

import android.content.Context
import android.graphics.Color
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import androidx.camera.view.PreviewView

/** What the user sees: the camera, the answers, one line about the model, and two buttons. */
class CameraScreen(context: Context, onFollow: () -> Unit, onOne: () -> Unit) : LinearLayout(context) {
    val preview = PreviewView(context)
    val answers = AnswersView(context)
    private val status = TextView(context).apply { setTextColor(Color.WHITE) }
    private val follow = Button(context).apply { setOnClickListener { onFollow() } }
    private val one = Button(context).apply {
        setText(R.string.one)
        setOnClickListener { onOne() }
    }
    private val buttons = LinearLayout(context).apply {
        addView(follow)
        addView(one)
        visibility = View.GONE
    }

    init {
        orientation = VERTICAL
        fitsSystemWindows = true
        setBackgroundColor(Color.BLACK)
        addView(preview, LayoutParams(LayoutParams.MATCH_PARENT, 0, 1f))
        for (view in listOf(answers, status, buttons)) {
            addView(view, LayoutParams(LayoutParams.MATCH_PARENT, LayoutParams.WRAP_CONTENT))
        }
    }

    /** Shows a line about the model, or an error. */
    fun say(line: String) {
        status.text = line
    }

    /** Shows the buttons, the first of them with what a tap on it does. */
    fun showButtons(following: Boolean) {
        buttons.visibility = View.VISIBLE
        follow.setText(if (following) R.string.pause else R.string.go_on)
    }
}
