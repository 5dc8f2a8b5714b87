"""URLs of a project that has nothing but the admin. The setting MAIL_DOMAIN is the title of its pages."""

from django.conf import settings
from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

admin.site.site_header = admin.site.site_title = f"Mail of {settings.MAIL_DOMAIN}"
admin.site.site_url = None
admin.site.enable_nav_sidebar = False

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:mail_states_state_changelist")),
    path("admin/", admin.site.urls),
]
